// Package crash proves what must survive: it runs `tallystick serve` as a child
// under load, kills it with SIGKILL at named points and at random instants, starts
// it again on the same folder, again and again, and then compares three sides that
// know nothing of each other: the merchants' log of what they were promised, the
// stores, and the PSP simulators, which live in this process and so survive. In the
// cluster profile, members of each role are killed while the others go on.
//
// Polls are put off for longer than a run takes, so that a callback that was
// acknowledged and lost is money that nobody hears of: it cannot hide.
package crash
