// Package fleet has the commands for hosts that have the same storage.
package fleet
