package modbus

import "github.com/waystation-iot/waystation/gateway"

// validate stands in for the checks of profiles.
func (p *Profile) validate(key string) []error {
	if len(p.Groups) == 0 && p.SunSpec == nil {
		return []error{&gateway.FieldError{Key: key + ".groups", Msg: "must not be empty: a profile has groups, sunspec or both"}}
	}
	return nil
}
