package kafka

import (
	"testing"

	"github.com/waystation-iot/waystation/gateway"
)

// No two sinks share a position, whatever is configured alike for both: one
// would take the other's records for its own and not send them.
func TestGroupsAreApart(t *testing.T) {
	seen := map[string]string{}
	for _, set := range []func(*Config){
		func(*Config) {},
		func(c *Config) { c.Group = "fleet" },
		func(c *Config) { c.TransactionalID = "fleet-2" },
		func(c *Config) { c.Group, c.TransactionalID = "fleet-3", "ids" },
	} {
		for _, who := range []gateway.Env{{GatewayID: "gw1", Name: "shore"}, {GatewayID: "gw1", Name: "depot"}, {GatewayID: "gw2", Name: "shore"}} {
			c := NewConfig()
			c.Brokers, c.Topic = []string{"127.0.0.1:1"}, "t"
			set(c)
			s, err := c.Sink(who)
			if err != nil {
				t.Fatal(err)
			}
			group, me := s.(*Sink).group, who.GatewayID+" "+who.Name
			if other := seen[group]; other != "" {
				t.Errorf("%s and %s share group %s", other, me, group)
			}
			seen[group] = me
		}
	}
}
