package bus

// ViolationsMax bounds the violations that Findings describe.
const ViolationsMax = 100

// Findings is what a verification found wrong.
type Findings struct {
	// Violations are at most ViolationsMax; Violated counts all.
	Violations []string
	Violated   int64
}

// Add counts a violation and describes the first ones.
func (f *Findings) Add(what string) {
	f.Violated++
	if len(f.Violations) < ViolationsMax {
		f.Violations = append(f.Violations, what)
	}
}

// More is how many are counted and not described.
func (f *Findings) More() int64 { return f.Violated - int64(len(f.Violations)) }
