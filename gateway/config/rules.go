package config

import (
	"fmt"
	"slices"

	"github.com/waystation-iot/waystation/gateway"
)

// ruleConfig is a rule as it is written.
type ruleConfig struct {
	Match matchConfig       `yaml:"match" doc:"Which records: every condition given must hold. Left out: all of them."`
	Lane  string            `yaml:"lane" doc:"Lane of these records, one of buffer.lanes."`
	Drop  bool              `yaml:"drop" doc:"Do not queue these records; they are acknowledged, and counted as filtered."`
	Tags  map[string]string `yaml:"tags" doc:"Tags put on these records; they replace others of the same name."`
}

// matchConfig are the conditions of a rule.
type matchConfig struct {
	Device  string   `yaml:"device" doc:"Pattern of the device, written as an MQTT topic filter: + is one level, # at the end the rest; * is any text within a level."`
	Name    string   `yaml:"name" doc:"The same of the name: the topic, register group or node."`
	Quality string   `yaml:"quality" enum:"good,uncertain,bad" doc:"The worst quality of the record and its values."`
	Value   string   `yaml:"value" doc:"Pattern of the name of a value that is in the record. A payload that is not decoded (codec raw) has no values."`
	Above   *float64 `yaml:"above" doc:"Such a value is a number above this."`
	Below   *float64 `yaml:"below" doc:"Such a value is a number below this; with above: between them."`
	Equals  *string  `yaml:"equals" doc:"Such a value is this text, or the same number, or \"true\" or \"false\"."`
}

// rules makes the rules of a source.
func (f *filler) rules(item *node, path string, list []ruleConfig) gateway.Transform {
	if len(list) == 0 || f.faulty(join(path, "rules")) {
		return nil
	}
	out := make([]gateway.Rule, len(list))
	for i, c := range list {
		at := fmt.Sprintf("rules[%d]", i)
		r := gateway.Rule{Device: c.Match.Device, Name: c.Match.Name, Value: c.Match.Value, Above: c.Match.Above, Below: c.Match.Below,
			Equals: c.Match.Equals, Drop: c.Drop, Tags: f.tags(f.root, join(path, at), c.Tags)}
		r.Quality = qualityOf(c.Match.Quality)
		if c.Lane != "" {
			r.Lane = f.lane(item, path, at+".lane", c.Lane).Choice()
		}
		out[i] = r
	}
	t, faults := gateway.NewRules(out)
	for _, e := range slices.Backward(faults) { // a fault hides those above it
		e.Key = "rules" + e.Key
		f.check(item, path, e)
	}
	return t
}
