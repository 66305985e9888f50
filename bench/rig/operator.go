package rig

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Figures are what a server's operator port says: metric names with their labels,
// as they are written there, and values.
type Figures map[string]float64

// Sum adds up all figures of a name, whatever their labels.
func (f Figures) Sum(name string) (total float64) {
	for k, v := range f {
		if k == name || strings.HasPrefix(k, name+"{") {
			total += v
		}
	}
	return total
}

// ReadFigures asks the operator port for /metrics.
func ReadFigures(ctx context.Context, operatorAddr string) (Figures, error) {
	b, err := get(ctx, "http://"+operatorAddr+"/metrics")
	if err != nil {
		return nil, err
	}
	f := Figures{}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		i := strings.LastIndexByte(line, ' ')
		if i < 0 || line[0] == '#' {
			continue
		}
		if v, err := strconv.ParseFloat(line[i+1:], 64); err == nil {
			f[line[:i]] = v
		}
	}
	return f, nil
}

// Profile takes a CPU profile of a server, in pprof's format.
func Profile(ctx context.Context, operatorAddr string, d time.Duration) ([]byte, error) {
	return get(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", operatorAddr, int(max(d, time.Second).Seconds())))
}

func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close() //nolint:errcheck // it was read
	b, err := io.ReadAll(io.LimitReader(res.Body, 256<<20))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, res.Status)
	}
	return b, err
}

// Ready waits until a server answers at addr, at most patience, or until the
// process has ended.
func (p *Process) Ready(ctx context.Context, addr string, patience time.Duration) error {
	return p.answers(ctx, addr, "/healthz", patience)
}

// Serves waits until the process lacks nothing.
func (p *Process) Serves(ctx context.Context, addr string, patience time.Duration) error {
	return p.answers(ctx, addr, "/readyz", patience)
}

func (p *Process) answers(ctx context.Context, addr, path string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		_, err := get(ctx, "http://"+addr+path)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("the server ended before it was ready: %w", p.err)
		case <-ctx.Done():
			return fmt.Errorf("the server at %s is not ready: %w; the end of its log:\n%s", addr, err, tail(p.log.Name()))
		case <-time.After(10 * time.Millisecond):
		}
	}
}
