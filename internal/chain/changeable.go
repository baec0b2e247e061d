package chain

// Changeable refuses what could not be changed without loss. The engine does so
// only when it is about to write.
func Changeable(n Node) error {
	reason := ""
	switch i := n.Image; {
	case i.Corrupt:
		reason = "it is marked as corrupt: check and repair it first"
	case i.Encrypted:
		reason = "it is encrypted"
	default:
		return nil
	}
	return &RefusedError{Path: n.Path, Reason: reason}
}
