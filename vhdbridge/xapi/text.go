package xapi

import (
	"regexp"
	"strings"
)

// mostText bounds labels and messages of a host, in bytes: longer ones are cut.
const mostText = 1 << 10

var (
	tags    = regexp.MustCompile(`<[^>]*>`)
	uuidish = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
)

// short is text, or its beginning.
func short(text string) string {
	if len(text) <= mostText {
		return strings.ToValidUTF8(text, "\uFFFD")
	}
	return strings.ToValidUTF8(text[:mostText], "\uFFFD") + "…"
}
