package ids

// SlotsOf gives the first and the last slot of a group.
func SlotsOf(group, groups int) (first, last int) {
	return (group*Slots + groups - 1) / groups, ((group+1)*Slots+groups-1)/groups - 1
}

// InGroup is the SQL of "column begins with a code of the group", and its
// arguments: two ranges of the column's order, so that an index on it serves. A
// number that begins with a code is in its code's group.
func InGroup(column string, group, groups int) (where string, args []any) {
	first, last := SlotsOf(group, groups)
	for _, kind := range []string{"r", "s"} {
		text := func(slot int) string { return kind + string([]byte{Alphabet[slot>>5], Alphabet[slot&31]}) }
		args = append(args, text(first), text(last)+"~") // behind every character of a code
	}
	return "(" + column + " BETWEEN ? AND ? OR " + column + " BETWEEN ? AND ?)", args
}
