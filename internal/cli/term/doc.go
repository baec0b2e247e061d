// Package term is what all commands share towards who called them: global flags, exit
// statuses, output for people and programs, and progress.
package term
