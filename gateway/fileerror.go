package gateway

import "fmt"

// FileError is a fault in a file that an option names, such as a list of
// registers. Several are joined with errors.Join.
type FileError struct {
	Line, Column int    // where it is, both from 1; columns count characters
	Msg          string // what is wrong and what is allowed
	Hint         string // what to do; may be ""
}

// Error implements error.
func (e *FileError) Error() string {
	s := fmt.Sprintf("%d:%d: %s", e.Line, e.Column, e.Msg)
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}
