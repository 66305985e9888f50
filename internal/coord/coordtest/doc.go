// Package coordtest holds what every adapter of the ports of internal/coord must do.
// It is proven on adapters that are broken on purpose.
package coordtest
