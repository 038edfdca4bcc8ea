package cri

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/cricket-cri/cricket/cri/ops"
	"github.com/cricket-cri/cricket/runtime/image"
	"github.com/cricket-cri/cricket/runtime/image/trust"
)

// pullBudget bounds a pull that goes on; one that stands still ends by the image
// store's own deadline.
const pullBudget = 12 * time.Hour

// PullImage brings an image in and answers its id. A caller that gives up and asks
// again joins the pull under way, if it has the same credentials.
func (s *Server) PullImage(ctx context.Context, req *v1.PullImageRequest) (*v1.PullImageResponse, error) {
	ref := req.GetImage().GetImage()
	if ref == "" {
		return nil, fmt.Errorf("image.image is empty: %w", errdefs.ErrInvalidArgument)
	}
	if err := s.checkImageHandler("image", req.GetImage()); err != nil {
		return nil, err
	}
	auth := pullAuth(req.GetAuth())
	namespace := req.GetSandboxConfig().GetMetadata().GetNamespace()
	op := ops.Spec{Key: ops.Key{Kind: "pull image", Name: pullName(ref, namespace, auth)}, Budget: pullBudget}
	img, err := ops.Do(ctx, s.ops, op, func(ctx context.Context) (image.Image, error) {
		return s.opts.Images.Pull(ctx, ref, auth, image.ForNamespace(namespace))
	})
	if err != nil {
		return nil, pullError(ref, err)
	}
	return &v1.PullImageResponse{ImageRef: img.ID.String()}, nil
}

// pullError begins with the word that the kubelet looks for when a registry cannot be
// reached (k8s.io/cri-api/pkg/errors).
func pullError(ref string, err error) error {
	if errdefs.IsUnavailable(err) {
		return fmt.Errorf("%w: pull image %q: %w", crierrors.ErrRegistryUnavailable, ref, err)
	}
	return signatureError(fmt.Errorf("pull image %q: %w", ref, err))
}

// signatureError begins with the kubelet's word for an image that the signature policy
// does not let be used; other errors, and none, stay as they are.
func signatureError(err error) error {
	if errors.Is(err, trust.ErrRefused) {
		return fmt.Errorf("%w: %w", crierrors.ErrSignatureValidationFailed, err)
	}
	return err
}

// pullAuth is nil for an anonymous pull.
func pullAuth(a *v1.AuthConfig) *image.Auth {
	auth := image.Auth{
		Username:      a.GetUsername(),
		Password:      a.GetPassword(),
		Auth:          a.GetAuth(),
		ServerAddress: a.GetServerAddress(),
		IdentityToken: a.GetIdentityToken(),
		RegistryToken: a.GetRegistryToken(),
	}
	if auth == (image.Auth{}) {
		return nil
	}
	return &auth
}

// pullName tells pulls for different namespaces and with different credentials apart, and
// shows none of the latter.
func pullName(ref, namespace string, auth *image.Auth) string {
	if namespace != "" {
		ref += " for " + namespace
	}
	if auth == nil {
		return ref
	}
	text, _ := json.Marshal(auth) // strings always marshal
	sum := sha256.Sum256(text)
	return fmt.Sprintf("%s (credential %x)", ref, sum[:4])
}
