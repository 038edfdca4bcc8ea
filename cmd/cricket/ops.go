package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/config"
	"github.com/cricket-cri/cricket/cri/ops"
)

// askTime bounds a question to the daemon, which answers from memory.
const askTime = 10 * time.Second

func showOps(ctx context.Context, args []string, out io.Writer) error {
	fs := flag.NewFlagSet("cricket ops", flag.ContinueOnError)
	socket := fs.String("socket", config.Default().Socket, "`path` of the daemon's socket")
	asJSON := fs.Bool("json", false, "print JSON")
	if err := fs.Parse(args); err != nil {
		return err
	}
	text, err := askOps(ctx, *socket)
	if err != nil {
		return err
	}
	if *asJSON {
		_, err := fmt.Fprintln(out, text)
		return err
	}
	var list []ops.Info
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return fmt.Errorf("read operations: %w", err)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "OPERATION\tNAME\tSTAGE\tAGE")
	for _, o := range list {
		stage := o.Stage
		if o.Done {
			stage = "done, result not asked for"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", o.Kind, o.Name, stage, o.Age.Round(time.Millisecond))
	}
	return w.Flush()
}

// askOps answers the daemon's operations as JSON.
func askOps(ctx context.Context, socket string) (string, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", fmt.Errorf("connect to the daemon: %w", err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	resp, err := v1.NewRuntimeServiceClient(conn).Status(ctx, &v1.StatusRequest{Verbose: true})
	if err != nil {
		return "", fmt.Errorf("ask the daemon at %s: %w", socket, err)
	}
	text, ok := resp.GetInfo()["operations"]
	if !ok {
		return "", fmt.Errorf("the runtime at %s does not list operations: is it cricketd?", socket)
	}
	return text, nil
}
