// Package rig is what benches stand on: server processes whose CPU and memory are
// read from /proc, data folders whose limits no load reaches, a simulated PSP,
// and the figures of an operator port. It needs Linux, and the go command once, to
// build the binary that is measured.
package rig
