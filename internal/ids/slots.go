package ids

import (
	"slices"
	"strings"
)

// SlotsOf gives the first and the last slot of a group.
func SlotsOf(group, groups int) (first, last int) {
	return (group*Slots + groups - 1) / groups, ((group+1)*Slots+groups-1)/groups - 1
}

// InGroup is the SQL of "column begins with a code of the group", and its
// arguments: two ranges of the column's order, so that an index on it serves. A
// number that begins with a code is in its code's group.
func InGroup(column string, group, groups int) (where string, args []any) {
	first, last := SlotsOf(group, groups)
	return inSlots(column, first, last)
}

func inSlots(column string, first, last int) (where string, args []any) {
	for _, kind := range []string{"r", "s"} {
		text := func(slot int) string { return kind + string([]byte{Alphabet[slot>>5], Alphabet[slot&31]}) }
		args = append(args, text(first), text(last)+"~") // behind every character of a code
	}
	return "(" + column + " BETWEEN ? AND ? OR " + column + " BETWEEN ? AND ?)", args
}

// InGroups is a condition behind others: that a column begins with a code of one of
// some groups; nil is no condition. Neighbours share their ranges.
func InGroups(column string, some []int, groups int) (where string, args []any) {
	if some == nil {
		return "", nil
	}
	sorted := slices.Sorted(slices.Values(some))
	var parts []string
	for i := 0; i < len(sorted); {
		j := i
		for j+1 < len(sorted) && sorted[j+1] == sorted[j]+1 {
			j++
		}
		first, _ := SlotsOf(sorted[i], groups)
		_, last := SlotsOf(sorted[j], groups)
		w, a := inSlots(column, first, last)
		parts, args = append(parts, w), append(args, a...)
		i = j + 1
	}
	if parts == nil {
		return " AND FALSE", nil
	}
	return " AND (" + strings.Join(parts, " OR ") + ")", args
}
