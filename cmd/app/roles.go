package app

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tallystick/tallystick/internal/fault"
)

// Role is a part of the system that can be a process of its own, on the kafka bus.
type Role string

// The roles. A gateway keeps nothing but what is on the bus; the others have a
// store each.
const (
	RoleGateway    Role = "gateway"
	RoleCore       Role = "core"
	RolePrepay     Role = "prepay"
	RoleAccounting Role = "accounting"
)

// allRoles is in the order of a payment's way.
func allRoles() []Role { return append([]Role{RoleGateway}, storedRoles()...) }

// storedRoles are those that have stores.
func storedRoles() []Role { return []Role{RoleCore, RolePrepay, RoleAccounting} }

// The buses.
const (
	BusEmbedded = "embedded" // all roles in one process
	BusKafka    = "kafka"
)

// has reports whether a process with this configuration plays a role.
func (c *Config) has(r Role) bool {
	for name := range strings.SplitSeq(c.Roles, ",") {
		if strings.TrimSpace(name) == string(r) {
			return true
		}
	}
	return false
}

// areas are the roles of this process that have stores.
func (c *Config) areas() (out []Role) {
	for _, r := range storedRoles() {
		if c.has(r) {
			out = append(out, r)
		}
	}
	return out
}

// validateRoles names the key that does not fit the roles.
func (c *Config) validateRoles() error {
	bad := func(field, code, fix string) error {
		return &fault.Error{Kind: fault.Invalid, Op: "configuration", Field: field, Code: code, Fix: fix}
	}
	seen := map[Role]bool{}
	for name := range strings.SplitSeq(c.Roles, ",") {
		r := Role(strings.TrimSpace(name))
		if !slices.Contains(allRoles(), r) || seen[r] {
			return bad("roles", "unknown_role", fmt.Sprintf("list some of %v, once each and with commas between them", allRoles()))
		}
		seen[r] = true
	}
	switch {
	case c.Bus != BusEmbedded && c.Bus != BusKafka:
		return bad("bus", "unknown_bus", "use embedded or kafka")
	case c.Bus == BusEmbedded && len(seen) != len(allRoles()):
		return bad("roles", "roles_apart", "set bus: kafka, or leave all roles in one process")
	case c.Bus == BusKafka && seen[RoleGateway] && !seen[RoleCore] && c.CoreURL == "":
		return bad("core_url", "missing", "give the operator address of a process with role core, such as http://10.0.0.7:8081")
	}
	return nil
}
