// Package follow reads log files as they grow.
//
// A [Follower] looks for files that patterns describe, and makes a record of
// each line, or of lines that belong together (see [Join]), through package
// emitter. It knows a file by its device and number and by what it begins with,
// not by its name, so that
//
//   - a file that is renamed is read to its end, then its successor: also if it
//     lived and was renamed between two looks;
//   - a file that is copied and truncated is read from its copy where it had not
//     been read to its end, then from its beginning. What was written between the
//     copying and the truncating is lost by that way of rotating, and nobody can
//     count it;
//   - a file that is deleted is read to its end;
//   - a file that is made anew is read from its beginning.
//
// A rotated file is found in the directory where it was, if its name is the old
// one with a number, a date or "old" added ("app.log.1", "app.log-20260102",
// "app-2026-01-02.log"); moved to another directory, it is read to its end if it
// was open. Names that end as compressed files do (".gz") are never read. A
// rotated file of which all, or the first 64 KiB, are what the file of its old
// name begins with is taken for a copy of that.
//
// # Delivery
//
// Positions are kept in a file. They move on only when what was read before has
// been acknowledged, see [Options.Mark]. Records carry numbers that are the same
// when a line is read again, so that a process that is killed and started again
// repeats what it had not been told of, and the server drops what it has. The
// exception are joined lines and rate-limited ones, which may be split or
// refused differently the second time: they may come twice.
//
// Files wait: while [Options.Hold] says so, nothing is read.
//
// # Memory
//
// One buffer of 1 MiB, and less than 2 KiB for each file. Options.MaxOpen bounds
// the open files; beyond it those that say nothing are closed for a while.
package follow
