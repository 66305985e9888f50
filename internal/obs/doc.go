// Package obs is what operators see: structured logs that hold neither card
// numbers nor secrets, metrics named and bucketed in one way, and the handler
// of the operator port.
package obs
