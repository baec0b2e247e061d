package host

import (
	"fmt"
	"strings"
)

// Parts of the description of a snapshot of ours. It begins and ends as it did before
// disks could be left out, so that older versions know their snapshots, too.
const (
	markPrefix = "Taken by virt-rotate (policy "
	quiesced   = "; quiesced"
	without    = "; without "
	markSuffix = ")"
)

// Bounds of what a description says of disks that are left out.
const (
	mostLeftOut = 16 // disks
	longestPart = 64 // bytes of each
)

// Mark returns the description of a snapshot that policy's rotation takes, without the disks
// that are left out, each with the reason: "vdb: shareable-disk". Only snapshots with a
// mark are ever dropped.
func Mark(policy string, leftOut ...string) string {
	if len(leftOut) == 0 {
		return markPrefix + policy + markSuffix
	}
	var parts []string
	for i, text := range leftOut {
		if i == mostLeftOut {
			parts = append(parts, fmt.Sprintf("and %d more", len(leftOut)-i))
			break
		}
		parts = append(parts, strings.Map(plain, text[:min(len(text), longestPart)]))
	}
	return markPrefix + policy + without + strings.Join(parts, ", ") + markSuffix
}

// MarkQuiesced is the mark of a snapshot for which the guest froze its file systems.
func MarkQuiesced(mark string) string {
	end := len(mark) - len(markSuffix)
	if at := strings.Index(mark, without); at >= 0 {
		end = at
	}
	return mark[:end] + quiesced + mark[end:]
}

// UnmarkQuiesced takes that back.
func UnmarkQuiesced(mark string) string { return strings.Replace(mark, quiesced, "", 1) }

// Quiesced tells whether the description says that the guest froze its file systems for the
// snapshot. Without it that is not known: older versions did not say.
func (s *Snapshot) Quiesced() bool { return s.Ours() && strings.Contains(s.Description, quiesced) }

// plain lets nothing through but what targets and codes are made of: targets are a guest's.
func plain(r rune) rune {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("-_.: ", r):
		return r
	}
	return '?'
}

// Ours tells whether virt-rotate took the snapshot.
func (s *Snapshot) Ours() bool {
	return strings.HasPrefix(s.Description, markPrefix) && strings.HasSuffix(s.Description, markSuffix)
}

// LeftOut is what the description says of disks that the snapshot was taken without, or "".
// Anybody may have written a description: what Mark does not write is not told.
func (s *Snapshot) LeftOut() string {
	_, text, found := strings.Cut(s.Description, without)
	text = strings.TrimSuffix(text, markSuffix)
	if !found || !s.Ours() || len(text) > (mostLeftOut+1)*(longestPart+len(", ")) || strings.Map(plain, strings.ReplaceAll(text, ", ", "")) != strings.ReplaceAll(text, ", ", "") {
		return ""
	}
	return text
}
