package page

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
)

//go:embed *.tmpl
var templates embed.FS

// style is the page's only style sheet; Cockpit's page has a copy in a file.
//
//go:embed page.css
var style string

// Style is the style sheet of pages and fragments.
func Style() string { return style }

// Generator is how a page says who made it: what has it near its beginning is one of ours.
const Generator = `<meta name="generator" content="virt-rotate"/>`

// Policy is the page's content security policy: it loads nothing, and has this one style sheet.
func Policy() string {
	sum := sha256.Sum256([]byte(style))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'"
}

// Write writes the whole page.
func Write(w io.Writer, m *Model) error {
	t, err := parse(m)
	if err != nil {
		return err
	}
	return t.ExecuteTemplate(w, "page", newView(m))
}

// Fragments are parts of a page, for one that is there. Each is HTML without scripts and styles.
type Fragments struct {
	Symbols  string          `json:"symbols"` // to be there once, before the others
	Overview string          `json:"overview"`
	Guests   []GuestFragment `json:"guests"`
}

// A GuestFragment is all about one guest.
type GuestFragment struct {
	Name Text   `json:"name"`
	HTML string `json:"html"`
}

// NewFragments makes the parts of the model's page.
func NewFragments(m *Model) (*Fragments, error) {
	t, err := parse(m)
	if err != nil {
		return nil, err
	}
	v := newView(m)
	f := &Fragments{Guests: []GuestFragment{}}
	if f.Symbols, err = made(t, "symbols", v); err != nil {
		return nil, err
	}
	if f.Overview, err = made(t, "overview", v); err != nil {
		return nil, err
	}
	for i := range v.Guests {
		text, err := made(t, "guest", &v.Guests[i])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", v.Guests[i].Name, err)
		}
		f.Guests = append(f.Guests, GuestFragment{v.Guests[i].Name, text})
	}
	return f, nil
}

func made(t *template.Template, name string, data any) (string, error) {
	var b bytes.Buffer
	err := t.ExecuteTemplate(&b, name, data)
	return b.String(), err
}

func parse(m *Model) (*template.Template, error) {
	return template.New("").Funcs(functions(clock{m.Time})).ParseFS(templates, "*.tmpl")
}

// A view is the model with what templates cannot work out.
type view struct {
	*Model
	Guests []guestView
	Style  template.HTML
	Policy string
	Trees  []tree // of a repository
}

// A guestView is a guest with its drawings.
type guestView struct {
	*Guest
	Number int
	Open   bool // all is shown at once
	Brief  bool // what can be concluded is left out
	clock  clock
}

// A tree is drawn.
type tree struct {
	Rows  []row
	Lanes int
	Dir   Text // of all its layers, or ""
}

// Of fewGuests all is shown at once; from manyGuests on the page is brief.
const (
	fewGuests  = 4
	manyGuests = 100

	briefHistory = 30 // runs
)

func newView(m *Model) *view {
	v := &view{Model: m, Policy: Policy(),
		Style: template.HTML("<style>" + style + "</style>")} //nolint:gosec // our own
	for i := range m.Guests {
		v.Guests = append(v.Guests, guestView{&m.Guests[i], i + 1, len(m.Guests) <= fewGuests, len(m.Guests) >= manyGuests, clock{m.Time}})
	}
	if m.Repository != nil {
		v.Trees = drawn(m.Repository.Trees, len(m.Repository.Trees) >= manyGuests)
	}
	return v
}

func drawn(trees []Layer, brief bool) []tree {
	var all []tree
	most := largest(trees)
	for i := range trees {
		rows := rows(&trees[i], most, brief)
		all = append(all, tree{rows, lanes(rows), trees[i].dir()})
	}
	return all
}

// Urgent are the guests of which check has something to say.
func (v *view) Urgent() []guestView {
	var urgent []guestView
	for i := range v.Guests {
		if len(v.Guests[i].Findings) > 0 {
			urgent = append(urgent, v.Guests[i])
		}
	}
	return urgent
}

// At counts the guests of a level.
func (v *view) At(level Level) int {
	n := 0
	for i := range v.Guests {
		if v.Guests[i].Level == level {
			n++
		}
	}
	return n
}

// Levels are those that guests can have, the worst first.
func (v *view) Levels() []Level { return []Level{Critical, Unknown, Warning, OK} }

// Reclaimable is what all of it gives back.
func (r *Repository) Reclaimable() int64 { return r.Coalesce + r.Leaf + r.Garbage }

// Drawn are the guest's trees.
func (g *guestView) Drawn() []tree { return drawn(g.Trees, g.Brief) }

// Timeline is the guest's retention, drawn.
func (g *guestView) Timeline() *timeline { return newTimeline(g.Snapshots, g.clock) }

// Curves are the guest's history, drawn.
func (g *guestView) Curves() ([]curve, error) {
	h := g.History
	if g.Brief {
		h = h[max(0, len(h)-briefHistory):]
	}
	return curves(h, g.clock)
}

// Counted is how many layers are drawn.
func (g *guestView) Counted() int { return count(g.Trees) }

// Worst is the finding that the table shows; nil for none.
func (g *guestView) Worst() *Finding {
	for i := range g.Findings {
		if g.Findings[i].Level == g.Level {
			return &g.Findings[i]
		}
	}
	return nil
}

// LastRefusal is what the last run refused first; nil for nothing.
func (g *guestView) LastRefusal() *Finding {
	if g.LastRun == nil || len(g.LastRun.Refused) == 0 {
		return nil
	}
	return &g.LastRun.Refused[0]
}

// Chained is the length of the chain as a share of what the policy allows, in percent.
func (g *guestView) Chained() string {
	return num(100*share(int64(g.Layers), int64(max(g.MaxChain, 1)))) + "%"
}

// Full tells whether the storage has less room than the policy keeps.
func (g *guestView) Full() bool { return g.Free >= 0 && g.Free < g.MinFree }

// Ours counts the snapshots that virt-rotate has taken.
func (g *guestView) Ours() int {
	n := 0
	for i := range g.Snapshots {
		if g.Snapshots[i].Ours {
			n++
		}
	}
	return n
}
