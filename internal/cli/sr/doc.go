// Package sr has the commands for storage repositories of XenServer and exports of its
// guests.
package sr
