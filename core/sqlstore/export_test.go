package sqlstore

// Waiting is how many batches wait for the transaction that runs.
func (s *Store) Waiting() int {
	s.together.mu.Lock()
	defer s.together.mu.Unlock()
	return len(s.together.waiting)
}

// ListSQL finds a page of a list.
var ListSQL = listSQL
