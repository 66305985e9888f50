// Package callback takes what PSPs tell us: it verifies a callback, appends it as
// it came and as it was read, waits for the commit, and only then gives the PSP
// the words that stop its repetitions. What was not committed is refused, so that
// the PSP sends it again; repetitions are core's to recognise.
//
// It needs no store and asks nobody whose a callback is: the PSP hands back the
// context that went out with the payment (ids.Context.Attach), and the codes' own
// tags tell whether it is ours. It knows no HTTP library; gateway/api is the shell.
package callback
