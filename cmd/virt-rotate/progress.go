package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/virt-rotate/virt-rotate/rotate"
)

// logEvery is how often a merge shows its progress in a log.
const logEvery = 10 * time.Second

// A progress shows what a run does: a bar on a terminal, lines in a log.
type progress struct {
	w        io.Writer
	terminal bool

	mu     sync.Mutex           // guards what follows
	starts map[string]time.Time // when a domain's merge started
	logged map[string]time.Time
	bar    string // what the last line of the terminal shows
}

func newProgress(w io.Writer) *progress {
	p := &progress{w: w, starts: map[string]time.Time{}, logged: map[string]time.Time{}}
	p.terminal = isTerminal(w)
	return p
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (p *progress) report(e rotate.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := e.Domain + "/" + e.Step.Disk
	switch e.Kind {
	case rotate.EventStep:
		p.starts[key], p.logged[key] = time.Now(), time.Now()
	case rotate.EventProgress:
		p.merging(key, e)
	case rotate.EventDone:
		if e.Step.Op == rotate.OpMerge {
			p.line(fmt.Sprintf("%s: merged %s in %s", key, rotate.Bytes(e.Step.Bytes), time.Since(p.starts[key]).Round(10*time.Millisecond)))
		}
	case rotate.EventWarning:
		p.line(e.Domain + ": warning: " + e.Text)
	}
}

func (p *progress) merging(key string, e rotate.Event) {
	text := progressText(key, e.Done, e.Total, time.Since(p.starts[key]))
	switch {
	case p.terminal:
		p.draw(text)
	case time.Since(p.logged[key]) >= logEvery:
		p.logged[key] = time.Now()
		p.line(text)
	}
}

// progressText tells bytes done, bytes in all, rate and time left.
func progressText(key string, done, total int64, took time.Duration) string {
	part := 0.0
	if total > 0 {
		part = float64(done) / float64(total)
	}
	const width = 24
	filled := int(part * width)
	text := fmt.Sprintf("%s [%s%s] %s of %s", key, strings.Repeat("#", filled), strings.Repeat(".", width-filled), rotate.Bytes(done), rotate.Bytes(total))
	if rate := float64(done) / took.Seconds(); rate > 0 && done < total {
		left := time.Duration(float64(total-done) / rate * float64(time.Second)).Round(time.Second)
		text += fmt.Sprintf(", %s/s, %s left", rotate.Bytes(int64(rate)), left)
	}
	return text
}

// draw replaces the bar on the terminal.
func (p *progress) draw(text string) {
	fmt.Fprintf(p.w, "\r%-*s", len(p.bar), text)
	p.bar = text
}

// line writes a line above the bar.
func (p *progress) line(text string) {
	p.wipe()
	fmt.Fprintln(p.w, text)
}

func (p *progress) wipe() {
	if p.bar != "" {
		fmt.Fprintf(p.w, "\r%*s\r", len(p.bar), "")
		p.bar = ""
	}
}

// end takes the bar off the terminal.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wipe()
}
