package app

// AnswerQueries and NewRemoteQueries are the two ends of core's internal port.
var (
	AnswerQueries    = answerQueries
	NewRemoteQueries = newRemoteQueries
)

// The bounds of a gateway's connections to one core.
const (
	QueryConnsMax = queryConnsMax
	ListConnsMax  = listConnsMax
)

// ProbeNames are what /readyz may name.
func (a *App) ProbeNames() (names []string) {
	for _, p := range a.probes() {
		names = append(names, p.Name)
	}
	return names
}
