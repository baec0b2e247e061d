// Package journal keeps what a run has to know of earlier ones and could not see in the
// world: what it was about to do to a domain (an Intent), which layers were released with
// their snapshots, and which states are lost.
//
// An Intent is on stable storage before the first step that needs it, and gone after the
// last. A record that cannot be read never sets anything free: a broken intent stands for
// everything that it may name, a broken list of released layers releases nothing.
package journal
