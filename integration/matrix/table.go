package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// table is for people, and for Markdown.
func table(rows []row) string {
	var b strings.Builder
	b.WriteString("| suite | libvirt | QEMU | demo | passed | failed | seconds |\n|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %d | %d | %d |\n", r.suite, r.libvirt, r.qemu, r.demo, r.passed, r.failed, r.seconds)
	}
	return b.String()
}

// versions is the short table for the README.
func versions(rows []row) string {
	var b strings.Builder
	b.WriteString("| libvirt | QEMU | Debian |\n|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", r.libvirt, r.qemu, r.suite)
	}
	return b.String()
}

// Marks in the documents.
const (
	begin = "<!-- matrix: make matrix -->\n"
	end   = "<!-- end of matrix -->\n"
)

// writeTables writes what was found between the marks of the documents.
func writeTables(rows []row, now time.Time) error {
	if err := replace("docs/testing.md", fmt.Sprintf("%s\nLast run: %s.\n", table(rows), now.Format(time.DateOnly))); err != nil {
		return err
	}
	return replace("README.md", versions(rows))
}

// replace puts text between the marks of a document.
func replace(file, text string) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(old), begin)
	_, after, ends := strings.Cut(rest, end)
	if !ok || !ends {
		return fmt.Errorf("%s has no marks for the matrix", file)
	}
	return os.WriteFile(file, []byte(before+begin+text+end+after), 0o644)
}
