package redis

// Heard is a message of one of the channels.
func Heard(c *Coordinator, hints bool, text string) {
	channel := c.wakesChannel()
	if hints {
		channel = c.hintsChannel()
	}
	c.heard(channel, text)
}

// DrawScript is the bucket in Redis.
const DrawScript = drawScript
