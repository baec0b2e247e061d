//go:build !failpoint

package rotate

// failpoint does nothing. Built with the tag failpoint, the process can be
// made to die there.
func failpoint(string) {}

// Boundary is failpoint for those who work beside a rotation.
func Boundary(string) {}
