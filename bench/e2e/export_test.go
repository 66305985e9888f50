package e2e

// Attribute gives the nanoseconds of profiles, all as one, by area and kind.
func Attribute(raws ...[]byte) (map[string]map[string]int64, error) {
	raw, err := merge(raws...)
	if err != nil {
		return nil, err
	}
	s, _, err := attribute(raw)
	return s, err
}
