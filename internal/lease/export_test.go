package lease

// ID is what the member is known by.
func (m *Member) ID() string { return m.id }
