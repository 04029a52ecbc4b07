"""The table of methods: one row per method, with its float64 closed form."""

import closed_forms
import closed_forms_gated as gated
import closed_forms_multiplicative as multiplicative
import closed_forms_of_updates as updates
import closed_forms_restarts as restarts
import closed_forms_shared as shared
import closed_forms_sparse as sparse
import closed_forms_starts as starts
from method_case import MethodCase

import keras_svd_adapters as ksa
from keras_svd_adapters import methods

METHODS = {
    "lora": MethodCase(ksa.LoRA(rank=3), closed_forms.lora),
    "lora_scaled": MethodCase(
        ksa.LoRA(rank=3, alpha=12, rslora=True), closed_forms.lora, variant=True
    ),
    "lora_gaussian": MethodCase(
        ksa.LoRA(rank=4, alpha=6, start="gaussian"), starts.lora_from_start, variant=True
    ),
    "lora_init_b": MethodCase(
        ksa.LoRA(rank=4, alpha=6, start="init_b"), starts.lora_from_start, variant=True
    ),
    "lora_orthonormal": MethodCase(
        ksa.LoRA(rank=4, alpha=6, start="orthonormal"), starts.lora_from_start, variant=True
    ),
    "lora_orthogonal": MethodCase(
        ksa.LoRA(rank=4, alpha=6, start="orthogonal"), starts.lora_from_start, variant=True
    ),
    "lora_olora": MethodCase(
        ksa.LoRA(rank=4, alpha=6, start="olora"), starts.lora_from_start, variant=True
    ),
    "lora_nystrom": MethodCase(
        ksa.LoRA(rank=4, alpha=6, start="nystrom"), starts.lora_from_start, variant=True
    ),
    "lora_fa": MethodCase(
        ksa.LoRA(rank=4, alpha=6, freeze="a"), starts.lora_from_start, variant=True
    ),
    "lora_olora_a": MethodCase(
        ksa.LoRA(rank=4, alpha=6, start="olora", freeze="a"), starts.lora_from_start, variant=True
    ),
    "lora_orthogonal_b": MethodCase(
        ksa.LoRA(rank=4, alpha=6, start="orthogonal", freeze="b"),
        starts.lora_from_start,
        variant=True,
    ),
    "dora": MethodCase(ksa.DoRA(rank=3, alpha=6), closed_forms.dora, kept=0.7),
    "dora_full": MethodCase(ksa.DoRA(rank=3, detach_norm=False), closed_forms.dora, variant=True),
    "pissa": MethodCase(ksa.PiSSA(rank=3, alpha=6), closed_forms.pissa),
    "milora": MethodCase(ksa.MiLoRA(rank=3), closed_forms.milora),
    "lora_xs": MethodCase(ksa.LoRAXS(rank=3, alpha=6), closed_forms.lora_xs),
    "vera": MethodCase(ksa.VeRA(rank=24, seed=3), closed_forms.vera),
    "token_rows": MethodCase(ksa.TokenRows([7, 0, 4]), closed_forms.token_rows),
    "ia3": MethodCase(methods.IA3(), updates.ia3, kept=-0.1),
    "ia3_input": MethodCase(methods.IA3(side="input"), updates.ia3, variant=True),
    "tri_lora": MethodCase(methods.TriLoRA(rank=3, alpha=6), updates.tri_lora),
    "adalora": MethodCase(methods.AdaLoRA(rank=3, alpha=6), gated.plain),
    "bilora": MethodCase(methods.BiLoRA(rank=3, orthogonality=0.0), gated.plain, variant=True),
    "sora": MethodCase(methods.SoRA(rank=3), gated.plain),
    "dynamic_dora": MethodCase(methods.DynamicDoRA(rank=3), gated.plain),
    "dylora": MethodCase(methods.DyLoRA(rank=3, alpha=6), gated.dylora),
    "autolora": MethodCase(methods.AutoLoRA(rank=3, alpha=6), gated.autolora),
    "allocating_lora": MethodCase(methods.AllocatingLoRA(rank=3, spare=1), gated.plain),
    "diff_pruning": MethodCase(methods.DiffPruning(openness=1.4), gated.diff_pruning),
    "roselora": MethodCase(methods.RoseLoRA(rank=3, alpha=6), sparse.masked_lora),
    "sparse_adapter": MethodCase(methods.SparseAdapter(rank=3), sparse.masked_lora),
    "lora_prune": MethodCase(methods.LoRAPrune(rank=3, alpha=6, group=2), sparse.lora_prune),
    "sparse_delta": MethodCase(methods.SparseDelta(share=0.1), sparse.sparse_delta),
    "aflora": MethodCase(methods.AFLoRA(rank=3), sparse.aflora),
    "flora": MethodCase(methods.FLoRA(rank_in=3, rank_out=2, scale=2.0), updates.flora),
    "melora": MethodCase(methods.MELoRA(rank=2, groups=2, alpha=3), updates.melora),
    "qa_lora": MethodCase(methods.QALoRA(rank=3, alpha=6, group=2), updates.qa_lora),
    "loha": MethodCase(methods.LoHa(rank=3, alpha=6), updates.loha),
    "abba": MethodCase(methods.ABBA(rank1=3, rank2=2, alpha1=1.5, alpha2=1.0), updates.abba),
    "miss": MethodCase(methods.MiSS(rank=3), updates.miss),
    "lokr": MethodCase(methods.LoKr(rank=2, alpha=3), updates.lokr),
    "lokr_whole": MethodCase(methods.LoKr(rank=8), updates.lokr, variant=True),
    "fourier_ft": MethodCase(methods.FourierFT(count=20), updates.fourier_ft),
    "loretta": MethodCase(methods.LoRETTA(rank=3, tt_rank=2, alpha=6), updates.loretta),
    "dude": MethodCase(methods.DuDe(rank=3, alpha=6), updates.dude, kept=0.7),
    "svdiff": MethodCase(methods.SVDiff(scale=0.5), updates.svdiff),
    "spectral_adapter_a": MethodCase(
        methods.SpectralAdapterA(rank=3, first=1), updates.spectral_adapter_a
    ),
    "spectral_adapter_r": MethodCase(
        methods.SpectralAdapterR(rank=3, first=1), updates.spectral_adapter_r
    ),
    "psoft": MethodCase(methods.PSOFT(rank=4), updates.psoft),
    "edora": MethodCase(methods.EDoRA(rank=3, alpha=6), updates.edora, kept=0.7),
    "lora_x": MethodCase(methods.LoRAX(rank=3), updates.lora_x),
    "lora_x_diagonal": MethodCase(
        methods.LoRAX(rank=3, core="diagonal"), updates.lora_x, variant=True
    ),
    "nested_lora_xs": MethodCase(
        methods.NestedLoRAXS(rank=4, inner_rank=2), updates.nested_lora_xs
    ),
    "pmss": MethodCase(methods.PMSS(rank=3), updates.pmss),
    "tiny_lora": MethodCase(methods.TinyLoRA(rank=3, values=5), updates.tiny_lora),
    "tied_lora": MethodCase(methods.TiedLoRA(rank=3, alpha=6), shared.tied_lora),
    "shared_lora": MethodCase(
        methods.TiedLoRA(rank=3, alpha=6, vectors=False), shared.tied_lora, variant=True
    ),
    "lotr": MethodCase(methods.LoTR(rank=3, alpha=1.5), shared.lotr),
    "randlora": MethodCase(methods.RandLoRA(rank=5, alpha=20), shared.randlora),
    "randlora_sparse": MethodCase(
        methods.RandLoRA(rank=4, sparse=True, seed=2), shared.randlora, variant=True
    ),
    "nola": MethodCase(methods.NOLA(rank=3, bases=20, alpha=6), shared.nola),
    "vblora": MethodCase(
        methods.VBLoRA(rank=3, vectors=6, vector_length=2, top_k=3), shared.vblora
    ),
    "intrinsic_dimension": MethodCase(
        methods.IntrinsicDimension(size=11), shared.intrinsic_dimension
    ),
    "intrinsic_dimension_scaled": MethodCase(
        methods.IntrinsicDimension(size=6, per_layer_scale=True),
        shared.intrinsic_dimension,
        variant=True,
    ),
    "svf": MethodCase(ksa.SVF(), closed_forms.svf),
    "svf_factored": MethodCase(
        ksa.SVF(formulation="factored"), closed_forms.svf, exact_at_start=False
    ),
    "svft_plain": MethodCase(ksa.SVFT(), closed_forms.svft),
    "svft_banded": MethodCase(ksa.SVFT(pattern="banded", d=2), closed_forms.svft),
    "svft_random": MethodCase(ksa.SVFT(pattern="random", d=2, seed=5), closed_forms.svft),
    "svft_top_k": MethodCase(
        ksa.SVFT(pattern="top_k", nnz=20), closed_forms.svft, square_only=True
    ),
    "svft_factored": MethodCase(
        ksa.SVFT(pattern="banded", d=2, formulation="factored"),
        closed_forms.svft,
        exact_at_start=False,
    ),
    "hra": MethodCase(methods.HRA(rank=4), multiplicative.hra),
    "hra_orthogonal": MethodCase(
        methods.HRA(rank=3, orthogonal=True), multiplicative.hra, variant=True
    ),
    "oft": MethodCase(methods.OFT(block_size=2), multiplicative.oft),
    "oft_shared": MethodCase(
        methods.OFT(block_size=2, shared_blocks=True), multiplicative.oft, variant=True
    ),
    "boft": MethodCase(methods.BOFT(block_size=2), multiplicative.boft, kept=0.6),
    "restarted_lora": MethodCase(
        methods.RestartedLoRA(rank=3, alpha=6, restarts=2), restarts.restarted_lora
    ),
    "task_lora": MethodCase(methods.TaskLoRA(rank=3, alpha=6, tasks=3), restarts.task_lora),
    "online_lora": MethodCase(methods.OnlineLoRA(rank=3, tasks=2), restarts.task_lora),
    "delta_lora": MethodCase(methods.DeltaLoRA(rank=3, alpha=6), restarts.delta_lora),
}
