// Package ops makes requests safe to repeat. An operation runs on a context of its own,
// so a caller that gives up does not end it; the same request asked again joins the
// attempt under way or takes the result that waited for it, and a different request
// under the same name is refused.
package ops
