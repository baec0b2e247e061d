package term

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"golang.org/x/term"
)

// logEvery is how often a merge shows its progress in a log.
const logEvery = 10 * time.Second

// A Progress shows what a run does: a bar on a terminal, lines in a log.
type Progress struct {
	w        io.Writer
	terminal bool
	Every    time.Duration // between two lines in a log

	mu     sync.Mutex           // guards what follows
	starts map[string]time.Time // when a domain's merge started
	logged map[string]time.Time
	bar    string // what the last line of the terminal shows
}

// NewProgress shows it on w.
func NewProgress(w io.Writer) *Progress {
	p := &Progress{w: w, Every: logEvery, starts: map[string]time.Time{}, logged: map[string]time.Time{}}
	p.terminal = IsTerminal(w)
	return p
}

// IsTerminal tells whether somebody looks at what is written to w.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Report shows what a rotation tells.
func (p *Progress) Report(e rotate.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := e.Domain + "/" + e.Step.Disk
	switch e.Kind {
	case rotate.EventStep:
		p.start(key)
	case rotate.EventProgress:
		p.show(key, e.Done, e.Total)
	case rotate.EventDone:
		if e.Step.Op == decide.OpMerge {
			p.line(fmt.Sprintf("%s: merged %s in %s", key, host.Bytes(e.Step.Bytes), time.Since(p.starts[key]).Round(10*time.Millisecond)))
		}
	case rotate.EventWarning:
		p.line(e.Domain + ": warning: " + e.Text)
	case rotate.EventOutput, rotate.EventFault:
		p.line(e.Domain + ": " + e.Text)
	}
}

// Warn tells what concerns no domain.
func (p *Progress) Warn(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line("virt-rotate: warning: " + text)
}

func (p *Progress) start(key string) {
	p.starts[key], p.logged[key] = time.Now(), time.Now()
}

func (p *Progress) show(key string, done, total int64) {
	text := progressText(key, done, total, time.Since(p.starts[key]))
	switch {
	case p.terminal:
		p.draw(text)
	case time.Since(p.logged[key]) >= p.Every:
		p.logged[key] = time.Now()
		p.line(text)
	}
}

// drawEvery is how often the bar of a copy moves.
const drawEvery = 100 * time.Millisecond

// Copying returns a function that is told of each copied piece, in bytes, and
// shows how far that is. Total may turn out to be too much or too little.
func (p *Progress) Copying(key string, total int64) func(n int64) {
	var done int64
	p.mu.Lock()
	defer p.mu.Unlock()
	p.start(key)
	drawn := time.Now()
	return func(n int64) {
		p.mu.Lock()
		defer p.mu.Unlock()
		done += n
		if time.Since(drawn) >= drawEvery {
			drawn = time.Now()
			p.show(key, done, max(done, total))
		}
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
	text := fmt.Sprintf("%s [%s%s] %s of %s", key, strings.Repeat("#", filled), strings.Repeat(".", width-filled), host.Bytes(done), host.Bytes(total))
	if rate := float64(done) / took.Seconds(); rate > 0 && done < total {
		left := time.Duration(float64(total-done) / rate * float64(time.Second)).Round(time.Second)
		text += fmt.Sprintf(", %s/s, %s left", host.Bytes(int64(rate)), left)
	}
	return text
}

// draw replaces the bar on the terminal.
func (p *Progress) draw(text string) {
	fmt.Fprintf(p.w, "\r%-*s", len(p.bar), text)
	p.bar = text
}

// line writes a line above the bar.
func (p *Progress) line(text string) {
	p.wipe()
	fmt.Fprintln(p.w, text)
}

// wipe takes the bar off, and the ^C that a terminal has put behind it.
func (p *Progress) wipe() {
	if p.bar != "" {
		fmt.Fprintf(p.w, "\r%*s\r", len(p.bar)+len("^C"), "")
		p.bar = ""
	}
}

// End takes the bar off the terminal.
func (p *Progress) End() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wipe()
}
