package e2e

// Attribute gives the nanoseconds of a profile by area and kind.
func Attribute(raw []byte) (map[string]map[string]int64, error) {
	s, _, err := attribute(raw)
	return s, err
}
