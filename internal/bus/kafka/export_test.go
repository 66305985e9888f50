package kafka

// Stirred tells whether something that was appended is to be sent now, and forgets it.
// Nothing else must Run the intake.
func (in *Intake) Stirred() bool {
	select {
	case <-in.ship.wake:
		return true
	default:
		return false
	}
}
