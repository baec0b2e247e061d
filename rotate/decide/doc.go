// Package decide turns a World, a rule and a time into a Plan, each step with its reason.
//
//	plan := decide.Decide(w, w.Domain("web"), rule, time.Now(), decide.Options{Reserved: &decide.Reservations{}})
//
// Decisions are pure: no file, no clock, no environment is looked at, arguments are left
// unchanged (but for Options.Reserved, which keeps the plans of one run apart), and the order
// of steps is total. What a run has to ask again just before it acts is a method of Case:
// the same rules, on the world as it is then.
package decide
