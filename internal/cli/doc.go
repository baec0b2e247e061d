// Package cli is the program: it puts the command groups together, brings arguments into
// the order that the library wants, and turns errors into what is said and the exit status.
//
// Arrows point down: cli knows the groups (guests, image, sr), which do not know each other;
// they know session and images, and all know term. Nothing below knows cli.
package cli
