// Package move moves a group of one area from one database to another, a step at a
// time. What to do next follows from the rows of all databases alone, so that a
// move which was interrupted anywhere is resumed by beginning it again:
//
//	the group is                            and the next step is
//	owned by the source                     freeze: nobody takes it any more
//	frozen, and held                        wait until its holder gives it up, or is dead
//	frozen, and free                        copy: all rows, compared, in one transaction
//	frozen, and whole at the target         depart: the source gives it up, for good
//	given up, and whole at the target       settle: the target owns it
//	owned by the target                     forget: the source's rows go
//
// At most one database has the lease row of a group at any time, and nobody works on
// a group without it. Between depart and settle none has: the rows are frozen then,
// and two rows of table moves, one in each database, say where it goes.
package move
