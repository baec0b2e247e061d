// Package page turns what is known of guests, their layers, retention and history into one
// self-contained HTML page and its fragments.
//
// Invariants:
//   - it is pure: a Model goes in, bytes come out, the same ones for the same Model; no file, clock,
//     network or environment is looked at;
//   - whatever comes from guests and file names is a Text: it is escaped for the place that it stands in,
//     and letters that nobody sees, or that change the direction of others, are written as in Go;
//   - a page loads nothing and runs nothing: its policy (CSP) allows its own style sheet, by its hash,
//     and no style beside that;
//   - colour says nothing that a word or a shape does not say, too.
package page
