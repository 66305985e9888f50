package bus_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/bus"
)

// listed is a source of the sequences that it has, in pages of two places.
type listed struct {
	bus.Source
	seqs []int64
	err  error
}

func (l listed) Topic() bus.Topic { return bus.Payments }

func (l listed) Read(_ context.Context, _ int, after bus.Place, _ int) (out []bus.Message, err error) {
	for _, s := range l.seqs {
		if s > after.Seq && (len(out) < 2 || out[len(out)-1].Place.Seq == s) {
			out = append(out, bus.Message{Place: bus.Place{Epoch: 1, Seq: s}})
		}
	}
	return out, l.err
}

func TestFold(t *testing.T) {
	for _, tc := range []struct {
		name string
		seqs []int64
		upTo int64
		read []int64
		hole string
	}{
		{"nothing", nil, 0, nil, ""},
		{"all", []int64{1, 2, 3, 4, 5}, 5, []int64{1, 2, 3, 4, 5}, ""},
		{"no more than asked for", []int64{1, 2, 3, 4, 5}, 3, []int64{1, 2, 3}, ""},
		{"one place of several messages", []int64{1, 1, 1, 2}, 2, []int64{1, 1, 1, 2}, ""},
		{"none is there", nil, 4, nil, "4 of 4 messages are missing, the first behind 0"},
		{"the first is missing", []int64{2, 3}, 3, []int64{2, 3}, "1 of 3 messages are missing, the first behind 0"},
		{"two holes", []int64{1, 4, 6}, 6, []int64{1, 4, 6}, "3 of 6 messages are missing, the first behind 1"},
		{"the end is missing", []int64{1, 2}, 4, []int64{1, 2}, "2 of 4 messages are missing, the first behind 2"},
		{"a hole at the end, and more behind it", []int64{1, 2, 9}, 4, []int64{1, 2}, "2 of 4 messages are missing, the first behind 2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var read []int64
			hole, err := bus.Fold(t.Context(), listed{seqs: tc.seqs}, 3, bus.Place{Epoch: 1, Seq: tc.upTo}, func(m *bus.Message) error {
				read = append(read, m.Place.Seq)
				return nil
			})
			if err != nil || !slices.Equal(read, tc.read) || !strings.HasSuffix(hole, tc.hole) || (hole == "") != (tc.hole == "") {
				t.Errorf("read %v, hole %q, %v", read, hole, err)
			}
		})
	}
	broken := errors.New("broken")
	if _, err := bus.Fold(t.Context(), listed{err: broken}, 0, bus.Place{Seq: 1}, nil); !errors.Is(err, broken) {
		t.Errorf("a read that fails: %v", err)
	}
	if _, err := bus.Fold(t.Context(), listed{seqs: []int64{1}}, 0, bus.Place{Seq: 1}, func(*bus.Message) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("a reader that fails: %v", err)
	}
}
