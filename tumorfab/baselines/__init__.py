"""The methods that TF-Aug and TF-GAN are compared with, written from their papers."""
