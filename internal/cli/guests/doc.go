// Package guests has the commands for the guests of a host: rotation, and all that tells of
// it or takes something out of it.
package guests
