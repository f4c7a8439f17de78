package mqtt

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"syscall"

	"github.com/waystation-iot/waystation/gateway"
)

// Bounds of what is tried with a record on which the broker closes the connection.
const (
	suspectTries = 3 // alone on its way
	// maxSuspects is how many records in a row are refused for it with none
	// confirmed in between: a broker that lets us publish nothing must not turn
	// the whole queue into dead letters.
	maxSuspects = 8
)

// itemState is what became of a record of the batch.
type itemState struct {
	size   int    // bytes on their way; 0 = none
	id     uint16 // packet identifier; 0 = none yet
	done   bool   // confirmed or refused
	flying bool   // published on this connection, not confirmed
	again  bool   // published before
}

// job is how far a batch is published. It outlives connections.
type job struct {
	batch   *gateway.Batch // nil when there is none
	state   []itemState    // of its items
	left    int            // not confirmed and not refused
	flying  int            // published on this connection and not confirmed
	bytes   int            // of those
	from    int            // every item before it is done
	at      int            // the first that is not published on this connection
	ids     map[uint16]int // items by packet identifier
	refused []gateway.Refusal
	place   place
	queue   []byte // where the batch stands, as JSON up to the seq
	body    []byte // of the message being encoded

	tries int // connections lost with the item at from alone on its way
	skip  int // the suspect, held back while another is tried; -1 = none
	probe int // that other one
	tried int // how many others were, and did not pass either
}

// take begins a batch, unless it is the one that is being published.
func (j *job) take(b *gateway.Batch, id string) {
	if j.batch == b {
		return
	}
	*j = job{batch: b, state: make([]itemState, len(b.Items)), left: len(b.Items), ids: make(map[uint16]int, len(b.Items)),
		place: place{gateway: b.Gateway, lane: b.LaneName}, body: j.body, skip: -1}
	if j.place.gateway == "" {
		j.place.gateway = id
	}
	if j.place.lane == "" {
		j.place.lane = b.Lane.String()
	}
	at, _ := json.Marshal(struct { // texts only: it cannot fail
		Gateway    string `json:"gateway"`
		Generation string `json:"generation"`
		Lane       string `json:"lane"`
		Replayed   bool   `json:"replayed,omitempty"`
	}{j.place.gateway, b.Generation, j.place.lane, b.Replayed})
	j.queue = append(append([]byte(`,"queue":`), at[:len(at)-1]...), `,"seq":`...)
}

// where adds to a JSON object where in which queue the record stands.
func (j *job) where(object []byte, i int) []byte {
	object = append(object[:len(object)-1], j.queue...)
	return append(strconv.AppendUint(object, j.batch.Items[i].Seq, 10), '}', '}')
}

// next returns the first record that is neither done nor on its way, or -1.
func (j *job) next() int {
	if j.skip >= 0 {
		if x := &j.state[j.probe]; x.done || x.flying {
			return -1
		}
		return j.probe
	}
	for ; j.at < len(j.state); j.at++ {
		if x := &j.state[j.at]; !x.done && !x.flying {
			return j.at
		}
	}
	return -1
}

// fly notes that a record is published with so many bytes.
func (j *job) fly(i, size int) {
	x := &j.state[i]
	x.flying, x.size, x.again = true, size, true
	j.ids[x.id] = i
	j.flying++
	j.bytes += size
}

// confirm notes a PUBACK; false when no such message is on its way.
func (j *job) confirm(id uint16) bool {
	i, ok := j.ids[id]
	if !ok || !j.state[i].flying {
		return false
	}
	j.fall(i)
	j.settle(i)
	return true
}

// fall notes that a record is no longer on its way.
func (j *job) fall(i int) {
	x := &j.state[i]
	j.flying--
	j.bytes -= x.size
	x.flying, x.size = false, 0
}

// settle notes that a record is done.
func (j *job) settle(i int) {
	j.state[i].done = true
	j.left--
	for j.from < len(j.state) && j.state[j.from].done {
		j.from++
		j.tries, j.tried = 0, 0
	}
}

// refuse notes that a record will never be accepted.
func (j *job) refuse(i int, reason string) {
	j.refused = append(j.refused, gateway.Refusal{Index: i, Reason: reason})
	j.settle(i)
}

// land notes that nothing is on its way any more: it is published again, from
// the first that is not done.
func (j *job) land() {
	for i := range j.state {
		if j.state[i].flying {
			j.fall(i)
		}
	}
	j.at = j.from
}

// finish ends the batch.
func (j *job) finish() error {
	refused := j.refused
	*j = job{body: j.body, skip: -1}
	if len(refused) > 0 {
		return &gateway.RefusedError{Refused: refused}
	}
	return nil
}

// blame looks for the record on which a broker closes the connection: MQTT
// 3.1.1 has no other way to say no. After a loss fewer messages are on their way
// at a time, until one is alone. When that is lost suspectTries times it is held
// back while another record of the batch is tried, and when that does not pass
// either, the next time a third: if one passes, or there is none and others have
// passed before, the first is refused. Otherwise the broker takes nothing at all,
// and everything waits. It returns a hint for the error.
func (s *Sink) blame(why, ended error) (hint string) {
	j := &s.job
	if ended != nil || j.flying == 0 || !closedByPeer(why) {
		return ""
	}
	alone := j.flying == 1 && s.window == 1
	s.window, s.grown = max(1, s.window/8), 0
	if !alone {
		return ""
	}
	hint = fmt.Sprintf(" (on publishing to %s: check that we may publish there and that the message is not too large)", s.topicOf(j.from))
	if j.skip >= 0 { // the other one did not pass either
		j.skip, j.tries, j.tried = -1, 0, j.tried+1
		return hint
	}
	if j.tries++; j.tries < suspectTries {
		return hint
	}
	switch {
	case j.left > 1:
		j.skip, j.probe = j.from, j.other(j.tried%(j.left-1))
	case s.ever && s.inRow < maxSuspects:
		s.inRow++
		j.skip = j.from
		s.refuseSuspect()
	}
	return hint
}

// other returns the n-th record that is not done, after the first.
func (j *job) other(n int) int {
	i := j.from + 1
	for ; ; i++ {
		if !j.state[i].done {
			if n--; n < 0 {
				return i
			}
		}
	}
}

// refuseSuspect refuses the record that was held back.
func (s *Sink) refuseSuspect() {
	j := &s.job
	i := j.skip
	reason := "the broker closes the connection on it"
	s.tell(fmt.Sprintf("the broker closed the connection on a message to %s (lane %s, seq %d): it is a dead letter; the message is too large, or we may not publish there",
		s.topicOf(i), j.place.lane, j.batch.Items[i].Seq))
	j.skip = -1
	j.refuse(i, reason)
}

func (s *Sink) topicOf(i int) string {
	return string(appendTopic(nil, s.topic, &s.job.place, &s.job.batch.Items[i].Record))
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
