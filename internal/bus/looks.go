package bus

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
)

// briefGroups is how many groups Brief names.
const briefGroups = 8

// Brief is an error for a line of the log, however many groups it is about: how many
// they are, the first of them, and what is wrong with the first one. Of what is about no
// group it gives the first, and how many more there are. It is nil for nil.
func Brief(err error) error {
	ill, rest := ByGroup(err)
	return brief(ill, rest)
}

func brief(ill map[int]error, rest error) error {
	var few []error
	if all := causes(rest); len(all) > 0 {
		few = append(few, all[0])
		if more := len(all) - 1; more > 0 {
			few = append(few, fmt.Errorf("and %d more", more))
		}
	}
	switch groups := slices.Sorted(maps.Keys(ill)); {
	case len(groups) == 1:
		few = append(few, fmt.Errorf("group %d: %w", groups[0], ill[groups[0]]))
	case len(groups) > 1:
		few = append(few, fmt.Errorf("%d groups, the first are %v: %w", len(groups), groups[:min(len(groups), briefGroups)], ill[groups[0]]))
	}
	return errors.Join(few...)
}

// causes takes apart what was joined, also behind words that were put before it.
func causes(err error) (out []error) {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if several, ok := e.(interface{ Unwrap() []error }); ok { //nolint:errorlint // each level is looked at by itself
			for _, one := range several.Unwrap() {
				out = append(out, causes(one)...)
			}
			return out
		}
	}
	if err != nil {
		out = append(out, err)
	}
	return out
}

// looks logs what looks at a topic come to, again and again: of groups that are refused,
// when that begins and ends; of everything else, what is wrong.
type looks struct {
	log     *slog.Logger // with the words for whose looks they are
	refused map[int]bool
}

func (l *looks) tell(err error) {
	ill, rest := ByGroup(err)
	begun := map[int]error{}
	var ended []int
	for g := range l.refused {
		if rest == nil && ill[g] == nil {
			ended = append(ended, g)
			delete(l.refused, g)
		}
	}
	for g, why := range ill {
		if !refused(why) {
			continue
		}
		if !l.refused[g] {
			begun[g] = why
		}
		delete(ill, g)
	}
	if l.refused == nil {
		l.refused = map[int]bool{}
	}
	for g := range begun {
		l.refused[g] = true
	}
	if len(begun) > 0 {
		l.log.Error("groups are refused: their logs are not those that were read", "error", brief(begun, nil))
	}
	if len(ended) > 0 {
		l.log.Info("groups are refused no more", "groups", len(ended), "first", slices.Min(ended))
	}
	if err := brief(ill, rest); err != nil {
		l.log.Error("heads not read", "error", err)
	}
}
