//go:build !unix

package kafka

import "errors"

// sameDevice is not known on this system.
func sameDevice(string, string) (bool, error) {
	return false, errors.New("mounted: true is not possible on this system")
}
