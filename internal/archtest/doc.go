// Package archtest holds the house together: its tests check who may import whom,
// what may not be called where, and which dependencies there are. What is not
// listed is forbidden.
package archtest
