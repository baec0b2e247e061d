package host

import (
	"fmt"
	"runtime/debug"
)

// A Fault is a panic in the work on one domain: a fault of virt-rotate itself. It is that
// domain's failure; the work on the others goes on.
type Fault struct {
	Domain string
	Value  any
	Stack  []byte
}

func (f *Fault) Error() string {
	return fmt.Sprintf("a fault of virt-rotate itself, please report it: %v", f.Value)
}

// Contain does something for a domain. A panic in it becomes a *Fault.
func Contain(domain string, do func()) (fault *Fault) {
	defer func() {
		if v := recover(); v != nil {
			fault = &Fault{domain, v, debug.Stack()}
		}
	}()
	do()
	return nil
}
