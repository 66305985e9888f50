package accept

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tallystick/tallystick/bench/rig"
	"github.com/tallystick/tallystick/cmd/app"
)

// boundless lets pile up what is accepted: a bench of accepting is not one of draining.
var boundless = []string{"TALLYSTICK_INTAKE_UNREAD_BYTES_MAX=17179869184", "TALLYSTICK_INTAKE_UNREAD_AGE_MAX=1h"}

// makeCluster starts engines, and lets a process of role core publish the directory,
// which the gateway keeps. No other role runs, and then core ends: nobody reads what is
// accepted.
func (b *bench) makeCluster(ctx context.Context) (end func() error, err error) {
	b.making.Dir, b.making.Exe, b.making.Each, b.making.Databases, b.making.Env = b.dir, b.binary, 1, 1, boundless
	b.cluster, err = rig.NewCluster(ctx, b.making)
	end = b.cluster.Close
	if err != nil {
		return end, err
	}
	if b.intents, err = openIntents(b.cluster.Kafka, b.making.Groups); err != nil {
		return end, err
	}
	end = func() error { return errors.Join(b.intents.Close(), b.cluster.Close()) }
	publisher := b.cluster.Members(app.RoleCore, app.RoleGateway)
	for _, m := range publisher {
		if err := m.Start(); err != nil {
			return end, err
		}
	}
	for _, m := range publisher {
		if err := m.Process().Serves(ctx, m.OperatorAddr, time.Minute); err != nil {
			return end, fmt.Errorf("%s: %w", m.Name, err)
		}
	}
	return end, b.cluster.Stop()
}

// startGateway starts the cluster's gateway anew.
func (b *bench) startGateway(ctx context.Context, kind string) (f rig.Folder, p *rig.Process, err error) {
	if kind != kindGateway {
		return f, nil, fmt.Errorf("-only: no server %q on a cluster", kind)
	}
	m := b.cluster.Members(app.RoleGateway)[0]
	if err := m.Start(); err != nil {
		return f, nil, err
	}
	p = m.Process()
	if err := p.Serves(ctx, m.OperatorAddr, time.Minute); err != nil {
		return f, nil, errors.Join(err, m.Stop())
	}
	f = b.cluster.Folder
	f.Addr, f.OperatorAddr = m.Addr, m.OperatorAddr
	return f, p, nil
}
