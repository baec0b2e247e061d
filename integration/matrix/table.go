package main

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

const head = "| suite | libvirt | QEMU | demo | passed | failed | seconds | run on |\n|---|---|---|---|---|---|---|---|\n"

// table is for people, and for Markdown.
func table(rows []row, now time.Time) string {
	var b strings.Builder
	b.WriteString(head)
	for _, r := range rows {
		b.WriteString(r.line(now))
	}
	return b.String()
}

func (r *row) line(now time.Time) string {
	return fmt.Sprintf("| %s | %s | %s | %s | %d | %d | %d | %s |\n", r.suite, r.libvirt, r.qemu, r.demo, r.passed, r.failed, r.seconds, now.Format(time.DateOnly))
}

// Marks in the documents.
const (
	begin = "<!-- matrix: make matrix -->\n"
	end   = "<!-- end of matrix -->\n"
)

// writeTables writes what was found between the marks of the documents. The lines of suites that
// were not run this time stay.
func writeTables(rows []row, now time.Time) error {
	lines := map[string]string{}
	for _, r := range rows {
		lines[r.suite] = r.line(now)
	}
	err := replace("docs/testing.md", func(old string) string { return head + strings.Join(merged(old, 0, lines), "") })
	if err != nil {
		return err
	}
	for _, r := range rows {
		lines[r.suite] = fmt.Sprintf("| %s | %s | %s |\n", r.libvirt, r.qemu, r.suite)
	}
	return replace("README.md", func(old string) string {
		return "| libvirt | QEMU | Debian |\n|---|---|---|\n" + strings.Join(merged(old, 2, lines), "")
	})
}

// merged returns the lines of a table, those of old where there is no new one for their
// suite, which is in that column, in the order of the suites.
func merged(old string, column int, lines map[string]string) []string {
	all := map[string]string{}
	for _, line := range strings.SplitAfter(old, "\n") {
		cells := strings.Split(strings.Trim(line, "|\n "), " | ")
		if column < len(cells) && slices.Contains(strings.Fields(allSuites), cells[column]) {
			all[cells[column]] = line
		}
	}
	var out []string
	for _, suite := range strings.Fields(allSuites) {
		if line := cmp.Or(lines[suite], all[suite]); line != "" {
			out = append(out, line)
		}
	}
	return out
}

// replace puts what is made of the text between the marks of a document in its place.
func replace(file string, change func(old string) string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), begin)
	old, after, ends := strings.Cut(rest, end)
	if !ok || !ends {
		return fmt.Errorf("%s has no marks for the matrix", file)
	}
	return os.WriteFile(file, []byte(before+begin+change(old)+end+after), 0o644)
}
