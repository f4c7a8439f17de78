package link

import "time"

// Profile is the behaviour of a link; the zero value is a perfect one. Each
// direction has it for itself.
type Profile struct {
	Name  string
	Delay time.Duration // of each byte, one way
	Rate  int           // bytes per second of all connections together; 0 is unlimited
	Loss  float64       // part of the packets that are lost, 0 to 1
	Up    time.Duration // flapping: so long up ...
	Down  time.Duration // ... and so long down; 0 never flaps
}

// The limits of a stall. RFC 6298 sets the first retransmission time-out to at
// least one second, and doubles it.
const (
	minRTO = time.Second
	maxRTO = 3 * time.Second
)

// Satellite is a geostationary link in rain: 2 Mbit/s, 600 ms there and back, 5 % loss.
func Satellite() Profile {
	return Profile{Name: "satellite", Delay: 300 * time.Millisecond, Rate: 2_000_000 / 8, Loss: 0.05}
}

// Kbit64 is an old leased line or a throttled mobile contract.
func Kbit64() Profile {
	return Profile{Name: "64kbit", Delay: 50 * time.Millisecond, Rate: 64_000 / 8}
}

// Kbit9 is a GSM data call or a radio modem: 9.6 kbit/s.
func Kbit9() Profile {
	return Profile{Name: "9.6kbit", Delay: 150 * time.Millisecond, Rate: 9_600 / 8}
}

// Flapping is a radio link at the edge of its range: 256 kbit/s, 3 s there, 2 s gone.
func Flapping() Profile {
	return Profile{Name: "flapping", Delay: 20 * time.Millisecond, Rate: 256_000 / 8, Up: 3 * time.Second, Down: 2 * time.Second}
}

// Profiles are all that have a name.
func Profiles() []Profile { return []Profile{Satellite(), Kbit64(), Kbit9(), Flapping()} }
