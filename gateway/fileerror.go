package gateway

import "fmt"

// FileError is a fault at a place of a file that an option names, from a type
// that reads such files itself (the tag `file` of package config). It is
// joined with others like a FieldError.
type FileError struct {
	Line   int    // from 1; 0 = the file as a whole
	Column int    // from 1, in characters; 0 = the line as a whole
	Msg    string // what is wrong and what is allowed
	Hint   string // what to do; may be ""
}

// Error implements error.
func (e *FileError) Error() string {
	s := e.Msg
	if e.Line > 0 {
		s = fmt.Sprintf("line %d: %s", e.Line, e.Msg)
	}
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}
