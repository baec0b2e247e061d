package guests

import (
	"context"
	"strings"

	"github.com/virt-rotate/virt-rotate/internal/cli/session"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/ping"
	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
)

// A pinger tells the web services of the policy how a run goes. What goes wrong with that
// is told and changes nothing else.
type pinger struct {
	ping policy.Ping
	warn func(text string)
	host string        // which the run is on
	told []decide.Plan // what was done
}

func (p *pinger) send(ctx context.Context, url, report string) {
	if url == "" {
		return
	}
	err := ping.Send(context.WithoutCancel(ctx), ping.Ping{URL: url, Method: string(p.ping.Method), Report: report, Timeout: p.ping.Timeout})
	if err != nil {
		p.warn("ping: " + err.Error())
	}
}

// start tells that the run has begun its work.
func (p *pinger) start(ctx context.Context) {
	p.send(ctx, p.ping.Start, "virt-rotate run begins on "+p.host+"\n")
}

// ended tells how the run ended. One that found another one at work says nothing: that one will.
func (p *pinger) ended(ctx context.Context, err error) {
	switch code := term.ExitCode(err); code {
	case term.ExitDone:
		p.send(ctx, p.ping.Success, p.report(err))
	case term.ExitLocked:
	default:
		p.send(ctx, p.ping.Failure, p.report(err))
	}
}

// report is what a log gets to read, with trouble first: services cut reports short.
func (p *pinger) report(err error) string {
	var b strings.Builder
	b.WriteString("virt-rotate run on " + p.host + "\n")
	if text := term.ErrorText(err); text != "" {
		b.WriteString(text + "\n")
	}
	var bad, good []decide.Plan
	for _, plan := range worthTelling(p.told) {
		if troubled(&plan) {
			bad = append(bad, plan)
		} else {
			good = append(good, plan)
		}
	}
	briefText(append(bad, good...))(&b)
	return b.String()
}

// newPinger has no addresses where the policy has none, or cannot be read: then nobody is
// told, and a service that waits for it raises its alarm.
func newPinger(e *term.Env, host string, warn func(string)) *pinger {
	p := &pinger{warn: warn, host: host}
	if f, err := session.LoadPolicy(e); err == nil {
		p.ping = f.Ping
	}
	return p
}
