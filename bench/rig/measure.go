package rig

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"time"
)

// Flags declares what a cluster is made of. each is how many processes of each role
// there are without a flag.
func (c *ClusterConfig) Flags(fs *flag.FlagSet, each int) {
	fs.IntVar(&c.Each, "each", each, "processes of each role of the cluster")
	fs.IntVar(&c.Databases, "databases", 1, "database servers of the cluster")
	fs.IntVar(&c.Groups, "groups", 16, "groups of the cluster")
}

// The names in CPU that are no roles: engines, and who measures.
const (
	enginePostgres = "postgres"
	EngineKafka    = "kafka"
	Compiling      = "kafka_compiling" // the part of Kafka's that compiles it
	EngineRedis    = "redis"
	Ourselves      = "load and PSP" // this process
)

// CPU is processor time by role and engine, and that of this process.
type CPU map[string]time.Duration

// CPU is the processor time so far. All members must have been started.
func (c *Cluster) CPU() (CPU, error) {
	out := CPU{Ourselves: SelfCPU()}
	for _, m := range c.members {
		if m.Process() != nil {
			out[string(m.Role)] += m.CPU()
		}
	}
	var errs []error
	for _, p := range c.Postgres {
		cpu, err := p.CPU()
		out[enginePostgres], errs = out[enginePostgres]+cpu, append(errs, err)
	}
	for name, of := range map[string]func() (time.Duration, error){EngineKafka: c.Kafka.CPU, Compiling: c.Kafka.CompilerCPU, EngineRedis: c.Redis.CPU} {
		cpu, err := of()
		out[name], errs = cpu, append(errs, err)
	}
	return out, errors.Join(errs...)
}

// Tell prints what each of n payments took since before, and keeps it among the
// figures. It gives that of all roles and of all engines, in milliseconds.
func (c CPU) Tell(out io.Writer, before CPU, n float64, figures map[string]any) (servers, engines float64) {
	for _, name := range []string{"gateway", "core", "prepay", "accounting", enginePostgres, EngineKafka, Compiling, EngineRedis, Ourselves} {
		each := 1e3 * (c[name] - before[name]).Seconds() / n
		figures["cpu_millis_"+name] = each
		switch name {
		case enginePostgres, EngineKafka, EngineRedis:
			engines += each
		case Compiling, Ourselves:
		default:
			servers += each
		}
		_, _ = fmt.Fprintf(out, "  %-15s %.3f ms CPU per settled payment\n", name, each)
	}
	figures["cpu_millis_servers"], figures["cpu_millis_engines"] = servers, engines
	return servers, engines
}

// SumFigures asks several operator ports, and adds up what has the same name.
func SumFigures(ctx context.Context, operatorAddrs ...string) (Figures, error) {
	sum := Figures{}
	for _, addr := range operatorAddrs {
		f, err := ReadFigures(ctx, addr)
		if err != nil {
			return nil, err
		}
		for name, v := range f {
			sum[name] += v
		}
	}
	return sum, nil
}
